/** How many callers the killed process has: 64 events in flight, on 36 documents, whose commits go ahead. */

export const APPENDERS = 56;
export const EDITORS = 8;
/** Documents that the appenders share. */
export const DOCUMENTS = 28;
