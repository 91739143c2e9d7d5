"""What is done to the suite on purpose: processes killed, files damaged."""
