"""One module per section of the page: from the inputs to its blocks. A section without inputs says so."""
