"""Stand-in for volumedriver.base."""
