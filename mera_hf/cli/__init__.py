"""`mera`: one file a verb, thin; no logic that a script could not call."""
