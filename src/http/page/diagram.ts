/**
 * The life of a compute as a drawing: nodes are the statuses, edges the rows of the table of changes. Which changes
 * there are is read from the table alone; only where a status stands is said here, and one without a place does not
 * compile. Pure.
 *
 * A frame is a composite state: when every status in it can become the same other one, one edge leaves the frame
 * instead of one from each. The drawing lies (`wide`) or stands (`tall`), for screens of either kind.
 */
import { displayStatus, finals, type Row, type Status, statuses, table } from "../../compute/transitions.ts"

/** From the beginning to the end, and away from the way that most computes take. */
const places: Readonly<Record<Status, readonly [along: number, across: number]>> = {
  empty: [0, 1],
  configuration_pending: [1, 0],
  init: [1, 1],
  refresh_configuration_pending: [1, 2],
  configuration: [2, 0],
  running: [2, 1],
  refresh_configuration: [2, 2],
  failed: [3, 1],
  termination_pending_fast: [4, 0],
  termination_pending_immediate: [4, 2],
  terminated: [5, 1]
}

interface Frame {
  readonly members: ReadonlyArray<Status>
  /** Between its members and its line, along the life and across it. */
  readonly padding: readonly [along: number, across: number]
}

const before = (end: number) => statuses.filter((status) => places[status][0] < end)

/** The smaller first. */
const frames: ReadonlyArray<Frame> = [
  { members: before(3), padding: [14, 12] },
  { members: before(4), padding: [22, 36] }
]

type Point = readonly [x: number, y: number]
type Box = { readonly at: Point; readonly size: Point }

/** Where a long way round runs, counted from the outermost nodes. */
const detour = 24
const margin = 6
const headLength = 8

export type Shape = "wide" | "tall"

interface Sizes {
  readonly node: Point
  /** From node to node. */
  readonly pitch: readonly [along: number, across: number]
  /** Letters that fit into a node's line. */
  readonly letters: number
}

const sizes: Readonly<Record<Shape, Sizes>> = {
  wide: { node: [148, 46], pitch: [196, 84], letters: 21 },
  tall: { node: [102, 54], pitch: [94, 114], letters: 14 }
}

/** An edge: one row, or those of a whole frame to one status. */
interface Edge {
  readonly rows: ReadonlyArray<Row>
  readonly from: Status | Frame
  readonly to: Status
}

/** Is this row drawn by an edge of the frame? */
const leaves = ({ members }: Frame, { from, to }: Row): boolean =>
  members.includes(from) &&
  !members.includes(to) &&
  members.every((member) => table.some((other) => other.from === member && other.to === to))

const edges = (): ReadonlyArray<Edge> => {
  const found = new Map<string, Edge>()
  for (const row of table) {
    const frame = frames.findLast((one) => leaves(one, row))
    const key = `${frame === undefined ? row.from : frames.indexOf(frame)} ${row.to}`
    const rows = [...(found.get(key)?.rows ?? []), row]
    found.set(key, { rows, from: frame ?? row.from, to: row.to })
  }
  return [...found.values()]
}

// -- geometry --------------------------------------------------------------------------------------------------------

const isTall = (shape: Shape): boolean => shape === "tall"
/** What is along and across becomes x and y. */
const oriented = (shape: Shape, [along, across]: readonly [number, number]): Point =>
  isTall(shape) ? [across, along] : [along, across]

/** Room around all nodes: the larger frame's. */
const outer = frames.reduce((most, { padding }) => Math.max(most, padding[1]), 0) + margin

const boxOf = (shape: Shape, status: Status): Box => {
  const { node, pitch } = sizes[shape]
  const [along, across] = places[status]
  const start = oriented(shape, [48, outer])
  const offset = oriented(shape, [along * pitch[0], across * pitch[1]])
  return { at: [start[0] + offset[0], start[1] + offset[1]], size: node }
}

const frameBox = (shape: Shape, { members, padding }: Frame): Box => {
  const boxes = members.map((member) => boxOf(shape, member))
  const [px, py] = oriented(shape, padding)
  const left = Math.min(...boxes.map(({ at }) => at[0])) - px
  const top = Math.min(...boxes.map(({ at }) => at[1])) - py
  const right = Math.max(...boxes.map(({ at, size }) => at[0] + size[0])) + px
  const bottom = Math.max(...boxes.map(({ at, size }) => at[1] + size[1])) + py
  return { at: [left, top], size: [right - left, bottom - top] }
}

const centre = ({ at, size }: Box): Point => [at[0] + size[0] / 2, at[1] + size[1] / 2]

/** Where the line from the middle of a box towards a point leaves the box. */
const border = (box: Box, towards: Point, gap: number): Point => {
  const [cx, cy] = centre(box)
  const [dx, dy] = [towards[0] - cx, towards[1] - cy]
  const scale = Math.min(
    (box.size[0] / 2 + gap) / Math.max(Math.abs(dx), 1e-9),
    (box.size[1] / 2 + gap) / Math.max(Math.abs(dy), 1e-9)
  )
  return [cx + dx * scale, cy + dy * scale]
}

const round = (value: number): number => Math.round(value * 10) / 10
const print = (points: ReadonlyArray<Point>): string => points.map(([x, y]) => `${round(x)} ${round(y)}`).join("L")

/** Two that lead to each other run side by side. */
const sideways = (from: Status, to: Status, [dx, dy]: Point): Point => {
  const both = table.some((row) => row.from === to && row.to === from)
  const length = Math.hypot(dx, dy)
  return both ? [(-dy / length) * 8, (dx / length) * 8] : [0, 0]
}

const straight = (shape: Shape, from: Status, to: Status): ReadonlyArray<Point> => {
  const [a, b] = [boxOf(shape, from), boxOf(shape, to)]
  const [ca, cb] = [centre(a), centre(b)]
  const [sx, sy] = sideways(from, to, [cb[0] - ca[0], cb[1] - ca[1]])
  const [start, end] = [border(a, cb, 0), border(b, ca, 2)]
  return [
    [start[0] + sx, start[1] + sy],
    [end[0] + sx, end[1] + sy]
  ]
}

/** Around all that lies between them, on the side on which the other one stands. */
const around = (shape: Shape, from: Status, to: Status): ReadonlyArray<Point> => {
  const last = Math.max(...statuses.map((status) => places[status][1]))
  const side = places[to][1] * 2 < last ? -1 : 1
  const { node, pitch } = sizes[shape]
  const depth = isTall(shape) ? node[0] : node[1]
  const outside = side < 0 ? outer - detour : outer + last * pitch[1] + depth + detour
  const halfway = (status: Status, gap: number): readonly [number, number] => {
    const [x, y] = centre(boxOf(shape, status))
    const [along, across] = isTall(shape) ? [y, x] : [x, y]
    return [along, across + side * (depth / 2 + gap)]
  }
  const [start, end] = [halfway(from, 0), halfway(to, 2)]
  return [start, [start[0], outside] as const, [end[0], outside] as const, end].map((one) => oriented(shape, one))
}

/** From a frame's line, at the height of the status that it leads to. */
const fromFrame = (shape: Shape, frame: Frame, to: Status): ReadonlyArray<Point> => {
  const [box, target] = [frameBox(shape, frame), boxOf(shape, to)]
  const [cx, cy] = centre(target)
  return isTall(shape)
    ? [
        [cx, box.at[1] + box.size[1]],
        [cx, target.at[1] - 2]
      ]
    : [
        [box.at[0] + box.size[0], cy],
        [target.at[0] - 2, cy]
      ]
}

const pathOf = (shape: Shape, { from, to }: Edge): ReadonlyArray<Point> => {
  if (typeof from !== "string") return fromFrame(shape, from, to)
  const [a, b] = [places[from], places[to]]
  return Math.abs(a[0] - b[0]) <= 1 ? straight(shape, from, to) : around(shape, from, to)
}

// -- SVG -------------------------------------------------------------------------------------------------------------

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

const arrowHead = (points: ReadonlyArray<Point>): string => {
  const [[bx, by] = [0, 0], [ax, ay] = [0, 0]] = [points.at(-1), points.at(-2)]
  const length = Math.hypot(bx - ax, by - ay)
  const [ux, uy] = [(bx - ax) / length, (by - ay) / length]
  const base: Point = [bx - ux * headLength, by - uy * headLength]
  const half = headLength * 0.45
  return print([
    [base[0] - uy * half, base[1] + ux * half],
    [bx, by],
    [base[0] + uy * half, base[1] - ux * half]
  ])
}

const edgeSvg = (shape: Shape, edge: Edge): string => {
  const points = pathOf(shape, edge)
  const from = [...new Set(edge.rows.map((row) => row.from))].join(" ")
  const because = [...new Set(edge.rows.map((row) => row.because))].join("; ")
  const whose = typeof edge.from === "string" ? displayStatus(edge.from) : "any status in the frame"
  return (
    `<g class="edge" data-from="${from}" data-to="${edge.to}">` +
    `<title>${escape(`${whose} → ${displayStatus(edge.to)}: ${because}`)}</title>` +
    `<path class="reach" d="M${print(points)}"/><path class="line" d="M${print(points)}"/>` +
    `<path class="head" d="M${arrowHead(points)}z"/></g>`
  )
}

const isFinal = (status: Status): boolean => finals.some((final) => final === status)

/** The words of a status, in as many lines as its node needs. */
const linesOf = (status: Status, letters: number): ReadonlyArray<string> =>
  status.split("_").reduce<Array<string>>((lines, word) => {
    const last = lines.at(-1)
    return last !== undefined && last.length + 1 + word.length <= letters
      ? [...lines.slice(0, -1), `${last} ${word}`]
      : [...lines, word]
  }, [])

const nodeSvg = (shape: Shape, status: Status): string => {
  const box = boxOf(shape, status)
  const [[x, y], [width, height], [cx, cy]] = [box.at, box.size, centre(box)]
  const lines = linesOf(status, sizes[shape].letters)
  const text = lines.map((line, index) => {
    const dy = cy + (index - (lines.length - 1) / 2) * 15
    return `<tspan x="${cx}" y="${round(dy)}">${line}</tspan>`
  })
  const inner = isFinal(status)
    ? `<rect class="inner" x="${x + 3}" y="${y + 3}" width="${width - 6}" height="${height - 6}" rx="7"/>`
    : ""
  return (
    `<g class="node" data-status="${status}"><rect x="${x}" y="${y}" width="${width}" height="${height}" rx="10"/>` +
    `${inner}<text>${text.join("")}</text></g>`
  )
}

const frameSvg = (shape: Shape, frame: Frame): string => {
  const { at, size } = frameBox(shape, frame)
  return `<rect class="frame" x="${at[0]}" y="${at[1]}" width="${size[0]}" height="${size[1]}" rx="16"/>`
}

/** The way into the first status. */
const entrySvg = (shape: Shape): string => {
  const box = boxOf(shape, "empty")
  const [cx, cy] = centre(box)
  const points: ReadonlyArray<Point> = isTall(shape)
    ? [
        [cx, box.at[1] - 40],
        [cx, box.at[1] - 2]
      ]
    : [
        [box.at[0] - 40, cy],
        [box.at[0] - 2, cy]
      ]
  const [[x, y] = [0, 0]] = points
  return (
    `<g class="entry"><circle cx="${x}" cy="${y}" r="4"/><path class="line" d="M${print(points)}"/>` +
    `<path class="head" d="M${arrowHead(points)}z"/></g>`
  )
}

/** `label` names the drawing for who cannot see it. */
export const diagramSvg = (shape: Shape, label: string): string => {
  const far = statuses.map((status) => boxOf(shape, status)).map(({ at, size }) => [at[0] + size[0], at[1] + size[1]])
  const end = oriented(shape, [margin, outer])
  const width = Math.max(...far.map(([x = 0]) => x)) + end[0]
  const height = Math.max(...far.map(([, y = 0]) => y)) + end[1]
  return (
    `<svg class="diagram ${shape}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(label)}">` +
    frames
      .toReversed()
      .map((frame) => frameSvg(shape, frame))
      .join("") +
    entrySvg(shape) +
    edges()
      .map((edge) => edgeSvg(shape, edge))
      .join("") +
    statuses.map((status) => nodeSvg(shape, status)).join("") +
    "</svg>"
  )
}
