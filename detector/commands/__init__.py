"""What the commands of the command line do, a file each; every file imports only what its command needs."""
