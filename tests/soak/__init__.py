"""Repeated retrainings in one process: does its memory stay flat, and do the stores grow as they should?"""
