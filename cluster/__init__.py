"""The server: many nodes that place, replicate, repair and serve what one `kvstore` engine holds."""
