"""Interfaces of other packages, offered on this one's operators so that their users' code runs."""
