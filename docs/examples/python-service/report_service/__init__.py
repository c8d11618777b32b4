"""A service that lives by Gaia's mounted files alone: no library of Gaia's, no other language."""
