"""Who belongs to the cluster and who owns what: adopting the topology document, and changing it."""
