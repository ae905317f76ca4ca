"""Stand-in for volumedriver.scrubber."""
