/** What the page imports from `vendor/pipecat.js`. */

export { PipecatClient } from "@pipecat-ai/client-js";
export { SmallWebRTCTransport } from "@pipecat-ai/small-webrtc-transport";
