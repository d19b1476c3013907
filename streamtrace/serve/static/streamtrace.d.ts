export type RunEvent = {
    type: "event";
    id: number | null;
    event: string;
    data: string;
    readonly json: any;
};
export type GapEvent = {
    type: "gap";
    id: number;
    after: number;
    missed: number;
};
export type ConnectionState = {
    state: "connecting" | "open" | "done";
} | {
    state: "waiting";
    delayMs: number;
    attempt: number;
    cause: unknown;
};
export type Headers = Record<string, string>;
export type ClientOptions = {
    /**
     * sent
     * with every request, such as `authorization`; or a function that gives them, asked anew for each
     * request, and with `refused` set after a 401, which is then tried once more
     */
    headers?: Headers | ((asked: {
        refused: boolean;
    }) => Headers | Promise<Headers>);
    /**
     * in place of the global one
     */
    fetch?: typeof fetch;
    /**
     * a connection on which no byte comes for so long, heartbeats
     * included, is cut and resumed
     */
    idleTimeoutMs?: number;
    /**
     * in a row that bring nothing new, then `ConnectionLost`; time
     * offline does not count
     */
    maxAttempts?: number;
};
export type StreamOptions = {
    /**
     * leaves the stream, which then throws its reason; the run is not
     * stopped by that
     */
    signal?: AbortSignal;
    /**
     * told how the connection stands
     */
    onState?: (state: ConnectionState) => void;
};
/** The server does not serve this: `status`, a short `code`, and what it says as the message. */
export declare class RunRefused extends Error {
    status: number;
    code: string;
    /** How long the server asks to be left alone; 0 where it does not say. */
    retryAfterMs: number;
    /**
     * @param {number} status
     * @param {string} code
     * @param {string} message
     * @param {number} [retryAfterMs]
     */
    constructor(status: number, code: string, message: string, retryAfterMs?: number);
}
/** No attempt brought anything new; `follow` with `after: lastId` goes on later. */
export declare class ConnectionLost extends Error {
    runId: string | null;
    lastId: number;
    /**
     * @param {string | null} runId
     * @param {number} lastId
     * @param {unknown} cause of the last attempt
     */
    constructor(runId: string | null, lastId: number, cause: unknown);
}
export type SseFrame = {
    event: string;
    data: string | null;
    id: string;
    hasId: boolean;
};
/**
 * Server-Sent Events, as WHATWG HTML (9.2.6) reads them: lines end with LF, CR or CRLF, and pieces
 * may be cut anywhere. `hasId`: the block has an id of its own, not that of an earlier one. With one
 * it is told even if it has no data, which is `null` then; an EventSource would keep the id only.
 * @typedef {{event: string, data: string | null, id: string, hasId: boolean}} SseFrame
 */
export declare class SseParser {
    #private;
    maxFrameChars: number;
    /** Of the last whole block that had one. */
    lastEventId: string;
    /** @type {number | null} What the server said last of the time before the next attempt. */
    retry: number | null;
    constructor(maxFrameChars?: number);
    /**
     * The frames that these bytes complete. Throws RangeError for one over `maxFrameChars`.
     * @param {Uint8Array} bytes
     * @returns {SseFrame[]}
     */
    feed(bytes: Uint8Array): SseFrame[];
}
/**
 * The events of one run, once: `for await (const event of stream)`. Made by `RunClient`.
 * @implements {AsyncIterable<RunEvent | GapEvent>}
 */
export declare class RunStream implements AsyncIterable<RunEvent | GapEvent> {
    #private;
    /** @type {string | null} `null` until known: a thread may have no run. */
    runId: string | null;
    /** @type {string | null} */
    threadId: string | null;
    /** The number of the last event that was told: the cursor. */
    lastId: number;
    /** @returns {AsyncIterator<RunEvent | GapEvent, void, void>} */
    [Symbol.asyncIterator](): AsyncIterator<RunEvent | GapEvent, void, void>;
    /** Ask the server to stop the run; its last events and its end still come. */
    stop(): Promise<boolean>;
    /** Read no more, and let go of the connection. The run goes on, if its server lets it. */
    close(): void;
}
/** The runs behind one prefix: `new RunClient("/agents")` for `POST /agents/runs` and the rest. */
export declare class RunClient {
    #private;
    prefix: string;
    idleTimeoutMs: number;
    maxAttempts: number;
    /**
     * @param {string} prefix where the runs are served: a path, or a URL
     * @param {ClientOptions} [options]
     */
    constructor(prefix: string, { headers, fetch, idleTimeoutMs, maxAttempts }?: ClientOptions);
    /**
     * Start a run; resolves when the server has begun it. `input` is the agent's input. Without a
     * `run_id` or `runId` it gets one, so that a start whose answer was lost is not begun twice.
     * `query`: what the server may be asked besides, `dialect` and `granularity`.
     * Throws RunRefused, ConnectionLost.
     * @param {Record<string, any>} input
     * @param {StreamOptions & {query?: Record<string, string>}} [options]
     * @returns {Promise<RunStream>}
     */
    start(input: Record<string, any>, options?: StreamOptions & {
        query?: Record<string, string>;
    }): Promise<RunStream>;
    /**
     * Follow a run from behind number `after`, from its beginning by default; or the run that its
     * thread began last. Where there is none, or nothing more, the stream is empty.
     * Throws RunRefused, ConnectionLost.
     * @param {{run: string, after?: number, thread?: undefined}
     *   | {thread: string, after?: undefined, run?: undefined}} which
     * @param {StreamOptions} [options]
     * @returns {Promise<RunStream>}
     */
    follow(which: {
        run: string;
        after?: number;
        thread?: undefined;
    } | {
        thread: string;
        after?: undefined;
        run?: undefined;
    }, options?: StreamOptions): Promise<RunStream>;
    /**
     * Ask that a run stops, from wherever it was started; `false` if it was over or stopped already.
     * Throws RunRefused, and what `fetch` throws: to ask again does no harm.
     * @param {string} runId
     * @returns {Promise<boolean>}
     */
    stop(runId: string): Promise<boolean>;
    /**
     * How a run stands, as the server tells it. Throws as `stop`.
     * @param {string} runId
     * @returns {Promise<any>}
     */
    state(runId: string): Promise<any>;
}
