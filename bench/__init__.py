"""What fanpulse can do on this machine: ``python -m bench`` measures, checks what it measured, and prints."""
