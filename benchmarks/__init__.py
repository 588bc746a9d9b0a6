"""What fedelta reaches, measured: how good the models are, how fast the machine is."""
