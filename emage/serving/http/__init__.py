"""The HTTP API: schemas, access rules, routes, OpenAPI description and playground page. It does not depend on Ray."""
