"""The records that cross the service: requests, sampling parameters, tokens and frames."""
