"""`mera`: one thin file per verb; no logic that a script could not call."""
