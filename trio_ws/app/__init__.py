"""App: routes, middleware and a lifespan."""
