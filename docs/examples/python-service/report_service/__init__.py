"""A service on Gaia's mounted files alone, without Gaia's libraries."""
