"""`<cohort>/profile`: what is in a cohort, on a page of its own."""
