"""Did it work, and what else broke? Prompts, videos and judges put together, and what is measured of them."""
