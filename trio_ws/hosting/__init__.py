"""Running applications under other servers, by ASGI and RSGI."""
