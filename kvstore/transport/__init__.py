"""How bytes travel between hosts: frames on connections, the adapters that carry them, and links that ask and answer."""
