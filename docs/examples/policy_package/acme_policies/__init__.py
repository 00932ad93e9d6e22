"""The policies of all services of ACME, in mlguard.toml beside this file."""
