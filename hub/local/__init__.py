"""What the Hub in a folder is made of: `hub.local_server` serves it."""
