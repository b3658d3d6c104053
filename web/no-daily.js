/**
 * Stands where the transport imports Daily's call object, which fetches code from Daily's servers
 * and reports to Sentry's. The page brings its own microphone (static/devices.js), so nothing
 * calls it.
 */

export default undefined;
