"""A model behind a queue: requests in, images out. It does not depend on Ray, and on HTTP only in http/."""
