/**
 * The least a Node HTTP server can do: the same bytes for two paths, and nothing else. What ours is compared with.
 */
import * as fs from "node:fs"
import { createServer } from "node:http"

const [status, metrics] = [fs.readFileSync(process.argv[2] ?? ""), fs.readFileSync(process.argv[3] ?? "")]

const server = createServer((request, response) => {
  const body = request.url === "/status" ? status : metrics
  response.writeHead(200, {
    "content-type": request.url === "/status" ? "application/json" : "text/plain",
    "content-length": body.length
  })
  response.end(body)
})
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  console.log(`port ${typeof address === "object" ? address?.port : ""}`)
})
