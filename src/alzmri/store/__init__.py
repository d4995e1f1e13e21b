"""The S3 remote: the local SeaweedFS server, other addresses, and whether they answer.

`settings` reads and writes DVC's configuration, `check` asks an address for its bucket, `server`
starts and stops the local server, `session` runs a command with it up.
"""
