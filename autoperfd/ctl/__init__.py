"""autoperfctl: what a person types."""
