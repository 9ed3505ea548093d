"""The photos of the subject: found, decoded, checked, encoded, and streamed by position."""
