"""What a node answers on its connections: admission, dispatch of verbs, administration."""
