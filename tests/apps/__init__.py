"""Third-party programs over SMC, one file each."""
