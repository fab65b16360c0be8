"""Files over HTTP: resumable, checked, and published in one step."""
