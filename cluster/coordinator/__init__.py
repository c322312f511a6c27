"""Requests that ask several replicas: what is enough (cores), and who asks whom (drivers)."""
