"""One agent of a bundle as a small HTTP and WebSocket service; needs the extra ``serve``."""
