"""Ways out of the queue: `base` says what a transport is; `smtp`, `sandbox` and `memory` are transports."""
