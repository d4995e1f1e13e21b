"""The S3 remote: the local SeaweedFS server or another address."""
