"""The page that runs exports in a browser: what is put into it, its template, script and style, and a server for it."""
