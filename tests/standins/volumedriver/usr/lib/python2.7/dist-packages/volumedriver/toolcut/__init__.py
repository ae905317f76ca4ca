"""Stand-in for volumedriver.toolcut."""
