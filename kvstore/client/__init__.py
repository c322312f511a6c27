"""The client: typed buckets over a cluster, for asyncio (`AsyncClient`) and for threads (`Client`). Import from `kvstore`."""
