"""Stand-in of the Open vStorage framework."""
