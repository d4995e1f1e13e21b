"""The S3 remote: the local SeaweedFS server, other addresses, and whether they answer."""
