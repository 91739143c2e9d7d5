"""The page that runs exports in a browser: its content, template, script and style, and a server for it."""
