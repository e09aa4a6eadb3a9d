/**
 * A disk that is full to the last byte, while others may be writing to it.
 */
import * as fs from "node:fs"

/** What is free goes into this file. */
export const useUp = (file: string): void => {
  const fd = fs.openSync(file, "w")
  try {
    for (let bytes = 16 * 1024 * 1024; bytes >= 512; bytes /= 2) {
      try {
        for (;;) fs.writeSync(fd, Buffer.alloc(bytes, 1))
      } catch {
        // Not so much any more.
      }
    }
    fs.fsyncSync(fd)
  } catch {
    // No room even for that.
  } finally {
    fs.closeSync(fd)
  }
}
