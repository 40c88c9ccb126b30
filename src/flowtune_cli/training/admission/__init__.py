"""The admission check: what of a flow cannot be learned from, or would be learned wrongly."""
