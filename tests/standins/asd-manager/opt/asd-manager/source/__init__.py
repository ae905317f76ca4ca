"""Stand-in of the agent of storage nodes (alba-asdmanager)."""
