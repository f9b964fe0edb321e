"""The images of requests and answers: from data URLs, digests and addresses, within limits; and as files to send."""
