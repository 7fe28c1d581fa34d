"""What is measured of samples, reconstructions and likelihoods."""
