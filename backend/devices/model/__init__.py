"""Device `model`: what each stage touches, from the plan, the kernargs and what is known of each kernel."""
