"""Limits that hold before a request reaches a route: connections, headers, bodies. They depend on no setting."""
