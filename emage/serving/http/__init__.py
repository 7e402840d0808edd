"""The HTTP endpoint: what goes over the wire, who may ask how much, the routes, the playground page. Knows no Ray."""
