"""A model behind a queue: requests in, images out. Knows neither Ray nor, outside http/, HTTP."""
